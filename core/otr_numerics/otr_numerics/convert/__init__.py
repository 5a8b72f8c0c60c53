"""Float Llama weights to the integers of spec/numerics.md section 2: the reference converter.

Conversion is not part of the numerics: any converter may be used, since the artefact is what is
hashed and what everybody executes. This one is deterministic: IEEE float64 throughout and no BLAS,
so that the same source gives the same bytes on another machine, which the pinned digests of the
bundled and the fetched model check.

`convert_model` does all of it for a path. `source` says what a float model offers, `hf` and `gguf`
open one, `quantise` and `smooth` do the arithmetic, `segments` chooses the trace granularity,
`directory` writes the model directory.
"""

from otr_numerics.convert.any_source import convert_model

__all__ = ["convert_model"]
