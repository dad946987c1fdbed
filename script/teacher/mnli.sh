#!/bin/sh
# MNLI's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/mnli.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" mnli --do_lower_case \
  --per_gpu_batch_size 128 --num_train_epochs 7 --learning_rate 1e-5 --seed 42 "$@"
