"""How many, where and at what price: pure functions that the control loop, `explain` and the simulator share."""
