"""What a user declares: cluster models, cluster files, and the settings beside them.

Everything public is re-exported here. The models (pydantic) say what is valid; `document` reads YAML with positions;
`explain` turns every refusal into a sentence with a place. Nothing here talks to a cluster.
"""

from krayne.config.explain import nearest
from krayne.config.loading import dump_cluster_yaml, load_config_from_yaml, parse_cluster_yaml
from krayne.config.models import (
    AutoscalerConfig,
    ClusterConfig,
    HeadNodeConfig,
    ServicesConfig,
    WorkerGroupConfig,
)
from krayne.config.pod import PodFragment
from krayne.config.problems import InvalidConfigError, Problem, problems_of
from krayne.config.quantities import parse_quantity
from krayne.config.settings import (
    KrayneSettings,
    clear_krayne_settings,
    load_krayne_settings,
    save_krayne_settings,
)
from krayne.errors import ConfigValidationError

__all__ = [
    "AutoscalerConfig",
    "ClusterConfig",
    "ConfigValidationError",
    "HeadNodeConfig",
    "InvalidConfigError",
    "KrayneSettings",
    "PodFragment",
    "Problem",
    "ServicesConfig",
    "WorkerGroupConfig",
    "clear_krayne_settings",
    "dump_cluster_yaml",
    "load_config_from_yaml",
    "load_krayne_settings",
    "nearest",
    "parse_cluster_yaml",
    "parse_quantity",
    "problems_of",
    "save_krayne_settings",
]
