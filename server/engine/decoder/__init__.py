"""An own forward for decoders of the Llama family, over packed tokens and for several models at once.

lanes.py       which of the packed rows belong to which model
weights.py     a model of transformers, taken apart; None for one whose forward is not known here
adapters.py    LoRA adapters as extra rows: every lane its own low-rank addition
projection.py  linear layers in the form that the machine multiplies fastest; quantized.py: in 8 bits
decoder.py     the forward

Stock code spends more time between its matrix products than in them when few tokens are decoded. Here the projections that read
the same input are one product, and models of one shape share everything but their weights: adapters share those too.
"""

from server.engine.decoder.adapters import Adapters, collect
from server.engine.decoder.decoder import Decoder, Lane
from server.engine.decoder.lanes import Lanes
from server.engine.decoder.weights import ModelWeights, take_apart

__all__ = ["Adapters", "Decoder", "Lane", "Lanes", "ModelWeights", "collect", "take_apart"]
