"""Image data: where it comes from, how it is batched, and the range its values live in.

This file imports nothing, so that ``diffusion_lab.data.value_range`` and its neighbours stay cheap
to import; take what you need from the file that holds it:

- ``value_range``: uint8 pixels to network values and back.
- ``sources``: the data sets by name (the folder, the download, the bundled digits, the fake set).
- ``loader``: batches out of one tensor, in an order that can be resumed.
- ``datamodule``: all of it as a LightningDataModule.
"""
