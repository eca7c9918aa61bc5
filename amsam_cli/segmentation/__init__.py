"""Volume + Adapter -> Segmentation: every label looked at in several ways, carried through the volume, and fused.

plan        Mode and Plan, which ways of looking take part
features    what the encoders made of every slice, once for all labels, in memory or on disk
scene       one scale: slices with their features, and the shots as they look at that scale
looks       a label decoded alone from automatic prompts (AM-SAM), or from the shots in memory (FSSAM)
tracking    a label carried from its key slices through their neighbours (SAM 2)
fusion      several looks become one
asking_back  how well the shots are found again from the result
closeup     where to look closer, in a second pass
components  which pieces of a label are kept
merging     logits of both passes become the label map, slab by slab
engine      the whole way, and what it returns
"""

from amsam_cli.segmentation.engine import Segmentation, segment
from amsam_cli.segmentation.plan import MODES, Mode, Plan

__all__ = ["MODES", "Mode", "Plan", "Segmentation", "segment"]
