//! The images that are pulled: many small files, many layers, one large layer.

use std::fmt::Write as _;

use suite::ImageBuilder;
use suite::image::{Compression, Flavour, Image, Tree};

/// How much of each there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    pub(crate) files: usize,
    pub(crate) layers: usize,
    pub(crate) files_per_layer: usize,
    pub(crate) large_bytes: usize,
}

/// Small files in one gzip layer.
pub(crate) fn files(amount: Amount) -> Image {
    let layer = small_files(0, amount.files);
    ImageBuilder::new(Flavour::Oci).layer(Compression::Gzip, layer).build()
}

/// Small files in many gzip layers.
pub(crate) fn layers(amount: Amount) -> Image {
    let mut builder = ImageBuilder::new(Flavour::Oci);
    for layer in 0..amount.layers {
        let first = layer * amount.files_per_layer;
        let tree = small_files(first, amount.files_per_layer);
        builder = builder.layer(Compression::Gzip, tree);
    }
    builder.build()
}

/// One file in one gzip layer.
pub(crate) fn large(amount: Amount) -> Image {
    let layer = suite::image::one_large_file(amount.large_bytes);
    ImageBuilder::new(Flavour::Oci).layer(Compression::Gzip, layer).build()
}

/// Files as packages have them: text, most of it short, some of it not, in directories of about a hundred.
fn small_files(first: usize, count: usize) -> Tree {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ first as u64);
    let words: Vec<String> = (0..2000).map(|_| chance.word()).collect();
    let mut tree = Tree::default();
    for number in first..first + count {
        let directory = format!("usr-{}", number / 100);
        if number == first || number.is_multiple_of(100) {
            tree = tree.directory(&directory);
        }
        let content = chance.text(&words);
        tree = tree.file(&format!("{directory}/file-{number}.txt"), 0o644, content.as_bytes());
    }
    tree
}

/// The same numbers in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }

    fn word(&mut self) -> String {
        let length = 3 + self.below(8);
        (0..length).map(|_| char::from(b'a' + u8::try_from(self.below(26)).unwrap_or(0))).collect()
    }

    /// About seven thousand bytes on average: mostly a few thousand, one in ten much more.
    fn text(&mut self, words: &[String]) -> String {
        let limit = if self.below(10) == 0 { 60_000 } else { 8_000 };
        let bytes = 100 + self.below(limit);
        let mut text = String::with_capacity(bytes + 16);
        while text.len() < bytes {
            let end = if self.below(9) == 0 { '\n' } else { ' ' };
            write!(text, "{}{end}", words[self.below(words.len())]).ok(); // A string takes everything.
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_images_have_the_asked_for_shape_each_time() {
        let amount = Amount { files: 250, layers: 3, files_per_layer: 120, large_bytes: 100_000 };
        for (name, make, layers) in
            [("files", files as fn(_) -> _, 1), ("layers", self::layers, 3), ("large", large, 1)]
        {
            let image = make(amount);
            assert_eq!(image.blobs.len(), 1 + layers, "{name}");
            assert_eq!(image.id, make(amount).id, "{name}");
        }
    }
}
