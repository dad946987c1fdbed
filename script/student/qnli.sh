#!/bin/sh
# QNLI's student: STUDENT_PATH=<pretrained model> sh script/student/qnli.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" qnli --distill_loss kd+sinkhorn \
  --alpha 0.8 --beta 0.8 --temperature 3.0 \
  --per_gpu_batch_size 16 --num_train_epochs 6 --learning_rate 3e-5 --seed 0 "$@"
