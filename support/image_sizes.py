"""The sizes of images that can be corrupted and built into sets.

corruptions.py refuses images with a side below `SMALLEST`. building/ takes the limits of `SIZES` for --image-size and
for what a manifest may say.
Nothing is imported here, so that the options of a command need not wait for OpenCV.
"""
SMALLEST = 16  # the smallest side, in pixels, of an image: below it, crops and kernels degenerate
SIZES = range(SMALLEST, 8001)  # sides of images in pixels; above, one image has more than 64 megapixels
