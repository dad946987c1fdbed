#!/bin/sh
# MRPC's student: STUDENT_PATH=<pretrained model> sh script/student/mrpc.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" mrpc --distill_loss kd_anneal+sinkhorn \
  --alpha 1.0 --beta 0.8 --temperature 4.0 \
  --per_gpu_batch_size 16 --num_train_epochs 3 --learning_rate 3e-5 --seed 0 "$@"
