#!/bin/sh
# MRPC's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/mrpc.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" mrpc --do_lower_case \
  --per_gpu_batch_size 8 --num_train_epochs 10 --learning_rate 5e-5 --seed 42 "$@"
