"""Files of ``torch.save``, read without trusting them.

Such a file is a zip archive: a pickle that says what there is, and the bytes of tensors as they are. A pickle is a
program. It is run here by torch's restricted interpreter, ``weights_only=True``, and by that in a process of its own
which has given up memory, files, network and time before (`outline`, `confinement`). What comes back is JSON: names,
shapes, and where in the archive each tensor lies. That, too, is not believed but held against the archive's own index
(`reading`), and bytes are read from the file itself, a tensor at a time: claims allocate nothing.
"""
