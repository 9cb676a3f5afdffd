"""``params.yaml`` as typed, checked data: one :class:`Profile` per top-level key."""

from pipeline.params.loading import PARAMS_FILE as PARAMS_FILE
from pipeline.params.loading import load_profile as load_profile
from pipeline.params.loading import profile_names as profile_names
from pipeline.params.profile import Convert as Convert
from pipeline.params.profile import EvaluateWorldModel as EvaluateWorldModel
from pipeline.params.profile import Export as Export
from pipeline.params.profile import Extract as Extract
from pipeline.params.profile import Features as Features
from pipeline.params.profile import Parallel as Parallel
from pipeline.params.profile import Profile as Profile
