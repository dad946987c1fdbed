#!/bin/sh
# MNLI's student: STUDENT_PATH=<pretrained model> sh script/student/mnli.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" mnli --distill_loss kd_anneal+sinkhorn \
  --alpha 0.8 --beta 0.8 --temperature 3.0 \
  --per_gpu_batch_size 16 --num_train_epochs 10 --learning_rate 4e-5 --seed 0 "$@"
