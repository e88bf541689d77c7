from .images import Images as Images
from .images import Labels as Labels
from .images import batches as batches
from .named import Origin as Origin
from .named import load_images as load_images
from .named import mnist as mnist
from .named import read_example as read_example
from .sources import Reading as Reading
