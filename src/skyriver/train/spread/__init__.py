"""One training on several workers that come and go: the same function, the same steps and, where that is asked for, the
same bits on any number of them."""
