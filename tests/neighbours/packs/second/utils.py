def halved(images):
    return images / 2
