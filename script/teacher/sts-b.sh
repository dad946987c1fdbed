#!/bin/sh
# STS-B's teacher (ours: none is published): TEACHER_PATH=<pretrained model> sh script/teacher/sts-b.sh [more flags]
exec sh "$(dirname "$0")/../finetune.sh" sts-b --do_lower_case \
  --per_gpu_batch_size 16 --num_train_epochs 5 --learning_rate 2e-5 --seed 42 "$@"
