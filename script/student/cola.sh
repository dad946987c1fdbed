#!/bin/sh
# CoLA's student: STUDENT_PATH=<pretrained model> sh script/student/cola.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" cola --distill_loss kd+sinkhorn \
  --alpha 0.9 --beta 0.8 --temperature 1.0 \
  --per_gpu_batch_size 16 --num_train_epochs 20 --learning_rate 5e-5 --seed 0 "$@"
