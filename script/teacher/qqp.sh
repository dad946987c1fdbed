#!/bin/sh
# QQP's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/qqp.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" qqp --do_lower_case \
  --per_gpu_batch_size 8 --num_train_epochs 5 --learning_rate 3e-6 --seed 32 "$@"
