#!/bin/sh
# RTE's student: STUDENT_PATH=<pretrained model> sh script/student/rte.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" rte --distill_loss kd+sinkhorn \
  --alpha 0.9 --beta 0.8 --temperature 3.5 \
  --per_gpu_batch_size 16 --num_train_epochs 5 --learning_rate 2e-5 --seed 20 "$@"
