from .images import Images as Images
from .images import Labels as Labels
from .images import batches as batches
from .loading import load_images as load_images
from .loading import read_example as read_example
from .named import mnist as mnist
from .named import mnist_labels as mnist_labels
from .options import Reading as Reading
