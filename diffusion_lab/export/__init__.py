"""Trained modules as folders that diffusers loads without this project, and as ONNX files."""

from diffusion_lab.export.folder import Export, export_pipeline, plan_export

__all__ = ["Export", "export_pipeline", "plan_export"]
