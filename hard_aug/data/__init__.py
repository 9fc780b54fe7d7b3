"""Image sets, shards of generated hard images, replay, and group annotations, as `torch.utils.data.Dataset`s.

Requires the extra `data`: `pip install 'hard_aug[data]'`.
"""

from hard_aug.utils.extras import requires_extra

with requires_extra("hard_aug.data", "data", "torchvision", "PIL"):
    from hard_aug.data.group_folders import load_groups
    from hard_aug.data.groups import Grouped, GroupedSplits
    from hard_aug.data.hard_images import HardImages, HardImageStore
    from hard_aug.data.image_files import list_image_files, read_image_files
    from hard_aug.data.image_set import ConcatImageSet, ImageSet, Splits, hold_out
    from hard_aug.data.replay import Refresh, Replay
    from hard_aug.data.shard_index import ShardIndex
    from hard_aug.data.shards import ShardWriter, read_shards, save_sheets

__all__ = [
    "ConcatImageSet",
    "Grouped",
    "GroupedSplits",
    "HardImageStore",
    "HardImages",
    "ImageSet",
    "Refresh",
    "Replay",
    "ShardIndex",
    "ShardWriter",
    "Splits",
    "hold_out",
    "list_image_files",
    "load_groups",
    "read_image_files",
    "read_shards",
    "save_sheets",
]
