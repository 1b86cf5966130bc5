"""Export of trained modules as standalone diffusers pipelines and ONNX files."""

from diffusion_lab.export.folder import Export, export_pipeline, plan_export

__all__ = ["Export", "export_pipeline", "plan_export"]
