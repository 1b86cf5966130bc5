"""Show samples of several runs in one figure: `python scripts/gallery.py out.png <run> ...`."""

from diffusion_lab.tools.gallery import main

if __name__ == "__main__":
    main()
