from .dataset import Dataset as Dataset
from .dataset import Labels as Labels
from .dataset import Origin as Origin
from .dataset import batches as batches
from .dataset import load_images as load_images
from .dataset import mnist as mnist
from .dataset import read_example as read_example
from .sources import Reading as Reading
