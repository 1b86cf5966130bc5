"""Networks: net(x_t, time) -> like x_t."""
