"""Tasks, one a file: what a label is, the loss, how outputs are judged while training.

A task's module has `KIND` (image or text), `loss(logits, targets, label_smoothing)` and `correct(logits, targets)`.
It knows neither libraries nor backends.
"""
