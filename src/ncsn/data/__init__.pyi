from .images import Images as Images
from .images import Labels as Labels
from .images import Origin as Origin
from .images import batches as batches
from .images import load_images as load_images
from .images import mnist as mnist
from .images import read_example as read_example
from .sources import Reading as Reading
