#!/bin/sh
# SST-2's teacher: TEACHER_PATH=<pretrained model> sh script/teacher/sst-2.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" sst-2 --do_lower_case \
  --per_gpu_batch_size 16 --num_train_epochs 10 --learning_rate 2e-5 --seed 42 "$@"
