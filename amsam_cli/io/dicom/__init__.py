"""DICOM: images, segmentations and contours in, segmentations out.

    files           objects in a folder, a file or a zip archive; which series they are of
    slices          one slice: a file of its own, or a frame of a multi-frame file
    stack           slices to one regular grid, or a sentence why they are none; the reader of images
    segmentation    SEG in, as label map or probabilities
    contours        RTSTRUCT in, as label map on the grid of its images
    codes           what a label is called by SNOMED, or by its plain name
    writer          SEG out

Messages name files, numbers and positions, never patients.
"""
