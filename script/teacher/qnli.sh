#!/bin/sh
# QNLI's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/qnli.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" qnli --do_lower_case \
  --per_gpu_batch_size 8 --num_train_epochs 8 --learning_rate 2e-5 --seed 42 "$@"
