"""Networks: net(x_t, time, labels=None) -> like x_t.

One made with `num_classes` needs labels (B,) from 0 to num_classes, the last being the null class.
"""
