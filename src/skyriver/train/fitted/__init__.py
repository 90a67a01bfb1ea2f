"""What a training function returns, as one thing: a model of any framework that scores rows and becomes ONNX."""

from skyriver.train.fitted.fitted import Fitted
from skyriver.train.fitted.recognise import recognise

__all__ = ["Fitted", "recognise"]
