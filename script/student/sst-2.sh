#!/bin/sh
# SST-2's student: STUDENT_PATH=<pretrained model> sh script/student/sst-2.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" sst-2 --distill_loss kd+sinkhorn \
  --alpha 0.9 --beta 0.8 --temperature 2.0 \
  --per_gpu_batch_size 32 --num_train_epochs 2 --learning_rate 4e-5 --seed 0 "$@"
