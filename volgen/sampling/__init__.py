"""From noise to a volume: the descent through the noise levels and the methods that it is made of."""
