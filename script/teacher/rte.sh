#!/bin/sh
# RTE's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/rte.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" rte --do_lower_case \
  --per_gpu_batch_size 15 --num_train_epochs 10 --learning_rate 3e-5 --seed 42 "$@"
