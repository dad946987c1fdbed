#!/bin/sh
# CoLA's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/cola.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" cola --do_lower_case \
  --per_gpu_batch_size 2 --num_train_epochs 8 --learning_rate 2e-5 --seed 42 "$@"
