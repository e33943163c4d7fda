"""A run as a row of TensorBoard's HParams tab.

``SummaryWriter.add_hparams`` would open a second run, and shows columns by the alphabet. These summaries go into the run's own
event file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

# Shown without being asked for: TensorBoard shows five columns, those that are said to differ before the others.
_FIRST = ("base_channels", "learning_rate", "loss", "network", "seed")


def session_start(values: Mapping[str, str | float | bool], metrics: Sequence[str]) -> list[Summary]:
    """What opens a row: its columns, and the run's values.

    Args:
        values: the settings.
        metrics: tags of scalars whose last values stand beside them.
    """
    kinds = {bool: (api_pb2.DATA_TYPE_BOOL, "bool_value"), str: (api_pb2.DATA_TYPE_STRING, "string_value")}
    start = plugin_data_pb2.SessionStartInfo()
    columns = []
    for name, value in values.items():
        kind, field = kinds.get(type(value), (api_pb2.DATA_TYPE_FLOAT64, "number_value"))
        columns.append(api_pb2.HParamInfo(name=name, type=kind, differs=name in _FIRST))
        setattr(start.hparams[name], field, value)
    experiment = api_pb2.Experiment(
        hparam_infos=columns, metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
    )
    return [
        _summary(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment)),
        _summary(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start)),
    ]


def session_end() -> Summary:
    """What says that the run has reached its end."""
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    return _summary(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))


def _summary(tag: str, content: plugin_data_pb2.HParamsPluginData) -> Summary:
    content.version = metadata.PLUGIN_DATA_VERSION
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])
