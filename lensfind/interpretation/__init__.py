"""What a finder looks at: methods that take (finder, stamps) and give arrays."""

from lensfind.interpretation.occlusion import occlusion

__all__ = ["occlusion"]
