#!/bin/sh
# STS-B's student (ours: none is published): STUDENT_PATH=<pretrained model> sh script/student/sts-b.sh [more flags]
exec sh "$(dirname "$0")/../distill.sh" sts-b --distill_loss kd+sinkhorn \
  --alpha 0.9 --beta 0.8 --temperature 1.0 \
  --per_gpu_batch_size 16 --num_train_epochs 10 --learning_rate 3e-5 --seed 0 "$@"
