#!/bin/sh
# QQP's student: STUDENT_PATH=<pretrained model> sh script/student/qqp.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" qqp --distill_loss kd_anneal+sinkhorn \
  --alpha 1.0 --beta 0.8 --temperature 4.0 \
  --per_gpu_batch_size 32 --num_train_epochs 8 --learning_rate 4e-5 --seed 0 "$@"
