//! Which name means which image. Pure: in memory, no I/O.

use crate::digest::Digest;
use crate::record::Image;
use crate::reference::Reference;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The images of a node and their names.
///
/// A tag belongs to one image at a time: inserting an image takes its tags away from whoever had them.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    images: BTreeMap<Digest, Arc<Image>>,
    /// Canonical names, with tag or digest, to ids.
    names: HashMap<String, Digest>,
}

/// The shortened id fits several images.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image id {prefix:?} fits {} images: {}", ids.len(), join(ids))]
pub struct Ambiguous {
    prefix: String,
    ids: Vec<Digest>,
}

fn join(ids: &[Digest]) -> String {
    let shown: Vec<&str> = ids.iter().take(3).map(Digest::hex).collect();
    shown.join(", ")
}

/// Fewer digits than this are no id: people name images `a` and `be`.
const MIN_PREFIX: usize = 4;

impl Catalog {
    /// Adds an image, or new names of one that is here.
    ///
    /// Gives back every image whose record is another one now: first this one with all its names, then those that lost
    /// a name to it.
    pub fn insert(&mut self, mut image: Image) -> Vec<Image> {
        let mut losers = BTreeSet::new();
        for name in image.tags.iter().chain(&image.digests) {
            let Some(owner) = self.names.insert(name.clone(), image.id.clone()) else { continue };
            if owner != image.id
                && let Some(loser) = self.images.get_mut(&owner)
            {
                let loser = Arc::make_mut(loser);
                loser.tags.retain(|tag| tag != name);
                loser.digests.retain(|digest| digest != name);
                losers.insert(owner);
            }
        }
        if let Some(known) = self.images.get(&image.id) {
            image.tags = union(&known.tags, image.tags);
            image.digests = union(&known.digests, image.digests);
        }
        self.images.insert(image.id.clone(), Arc::new(image.clone()));
        let losers =
            losers.iter().filter_map(|id| self.images.get(id)).map(|loser| Image::clone(loser));
        std::iter::once(image).chain(losers).collect()
    }

    /// Takes one name away from the image that has it, and gives that image as it is then. Its last name is taken too: it
    /// stays, by its id.
    pub fn untag(&mut self, name: &Reference) -> Option<Image> {
        let key = canonical(name);
        let id = self.names.remove(&key)?;
        let image = Arc::make_mut(self.images.get_mut(&id)?);
        image.tags.retain(|tag| *tag != key);
        image.digests.retain(|digest| *digest != key);
        Some(image.clone())
    }

    /// Removes an image with all its names.
    pub fn remove(&mut self, id: &Digest) -> Option<Image> {
        let image = self.images.remove(id)?;
        for name in image.tags.iter().chain(&image.digests) {
            self.names.remove(name);
        }
        Some(Arc::unwrap_or_clone(image))
    }

    /// The image a client means by `name`: an id with or without `sha256:`, a name with or without registry, tag and
    /// digest, or the first four or more digits of an id. A name wins over the digits of an id.
    ///
    /// # Errors
    ///
    /// [`Ambiguous`] when the digits fit several images.
    pub fn resolve(&self, name: &str) -> Result<Option<Arc<Image>>, Ambiguous> {
        if let Some(image) = self.by_id(name).or_else(|| self.by_name(name)) {
            return Ok(Some(Arc::clone(image)));
        }
        self.by_prefix(name)
    }

    /// Every image, ordered by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.images.values().cloned().collect()
    }

    fn by_id(&self, text: &str) -> Option<&Arc<Image>> {
        let id = text.parse().or_else(|_| format!("sha256:{text}").parse()).ok()?;
        self.images.get::<Digest>(&id)
    }

    fn by_name(&self, text: &str) -> Option<&Arc<Image>> {
        let reference: Reference = text.parse().ok()?;
        self.images.get(self.names.get(&canonical(&reference))?)
    }

    fn by_prefix(&self, text: &str) -> Result<Option<Arc<Image>>, Ambiguous> {
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if prefix.len() < MIN_PREFIX
            || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Ok(None);
        }
        let fits = |image: &&Arc<Image>| image.id.hex().starts_with(prefix);
        let mut found = self.images.values().filter(fits);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some(image), None) => Ok(Some(Arc::clone(image))),
            (Some(_), Some(_)) => {
                let ids = self.images.values().filter(fits).map(|image| image.id.clone()).collect();
                Err(Ambiguous { prefix: prefix.to_owned(), ids })
            }
        }
    }
}

/// The name as images have it: by digest where there is one, whatever the tag.
fn canonical(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => reference.at(digest),
        None => reference.to_string(),
    }
}

fn union(known: &[String], new: Vec<String>) -> Vec<String> {
    let mut all = known.to_vec();
    for name in new {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Config;

    /// An image whose id begins with `digits`.
    fn image(digits: &str, tags: &[&str]) -> Image {
        let id: Digest = format!("sha256:{digits:0<64}").parse().unwrap();
        Image {
            manifest: Digest::of(digits.as_bytes()),
            tags: tags.iter().map(|tag| tag.parse::<Reference>().unwrap().to_string()).collect(),
            digests: vec![format!("docker.io/library/app@{id}")],
            id,
            layers: Vec::new(),
            bytes: 1,
            config: Config::default(),
            annotations: BTreeMap::new(),
            pulled_at: 0,
            artifact: None,
        }
    }

    fn ids(images: &[Image]) -> Vec<String> {
        images.iter().map(|image| image.id.hex().trim_end_matches('0').to_owned()).collect()
    }

    #[test]
    fn a_tag_moves_and_both_records_change() {
        let mut catalog = Catalog::default();
        assert_eq!(ids(&catalog.insert(image("aaaa", &["app", "app:1"]))), ["aaaa"]);
        let changed = catalog.insert(image("bbbb", &["app"]));
        assert_eq!(ids(&changed), ["bbbb", "aaaa"]);
        assert_eq!(changed[1].tags, ["docker.io/library/app:1"]);
        assert_eq!(catalog.resolve("app").unwrap().unwrap().id, changed[0].id);
        let changed = catalog.insert(image("bbbb", &["app:1"]));
        assert_eq!(ids(&changed), ["bbbb", "aaaa"]);
        assert!(changed[1].tags.is_empty(), "an image without a tag stays, by id and digest");
        assert_eq!(catalog.list().len(), 2);
    }

    #[test]
    fn names_of_one_image_add_up() {
        let mut catalog = Catalog::default();
        catalog.insert(image("aaaa", &["app"]));
        let merged = catalog.insert(image("aaaa", &["quay.io/x/app:2", "app"])).remove(0);
        assert_eq!(merged.tags, ["docker.io/library/app:latest", "quay.io/x/app:2"]);
        assert_eq!(merged.digests.len(), 1);
        assert_eq!(catalog.list().len(), 1);
    }

    #[test]
    fn an_image_answers_to_every_form_of_its_name() {
        let mut catalog = Catalog::default();
        let app = image("abcdef", &["app:1", "localhost:5000/x:y"]);
        let hex = app.id.hex().to_owned();
        catalog.insert(app);
        catalog.insert(image("abcd00ff", &["cafe"]));
        catalog.insert(image("cafe", &[]));
        let cases = [
            ("id", format!("sha256:{hex}"), "abcdef"),
            ("id without algorithm", hex.clone(), "abcdef"),
            ("prefix", "abcde".into(), "abcdef"),
            ("prefix with algorithm", "sha256:abcdef".into(), "abcdef"),
            ("ambiguous prefix", "abcd".into(), "ambiguous"),
            ("prefix too short", "abc".into(), "none"),
            ("prefix of nobody", "1234".into(), "none"),
            ("a name that looks like a prefix", "cafe".into(), "abcd00ff"),
            ("short name", "app:1".into(), "abcdef"),
            ("full name", "docker.io/library/app:1".into(), "abcdef"),
            ("old Docker Hub name", "index.docker.io/app:1".into(), "abcdef"),
            ("another tag", "app:2".into(), "none"),
            ("the default tag", "app".into(), "none"),
            ("other registry", "localhost:5000/x:y".into(), "abcdef"),
            ("digest", format!("app@sha256:{hex}"), "abcdef"),
            ("tag and digest", format!("app:7@sha256:{hex}"), "abcdef"),
            ("digest under another name", format!("other@sha256:{hex}"), "none"),
            ("nothing", String::new(), "none"),
            ("a path", "../../etc".into(), "none"),
        ];
        for (name, text, want) in cases {
            let got = match catalog.resolve(&text) {
                Ok(Some(image)) => ids(&[Image::clone(&image)]).remove(0),
                Ok(None) => "none".into(),
                Err(Ambiguous { .. }) => "ambiguous".into(),
            };
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn a_removed_image_takes_its_names_along() {
        let mut catalog = Catalog::default();
        let id = catalog.insert(image("aaaa", &["app", "app:1"])).remove(0).id;
        assert_eq!(catalog.remove(&id).unwrap().tags.len(), 2);
        assert!(catalog.remove(&id).is_none());
        assert!(catalog.resolve("app").unwrap().is_none());
        assert!(catalog.names.is_empty());
    }

    #[test]
    fn one_name_can_be_taken_away() {
        let mut catalog = Catalog::default();
        catalog.insert(image("aaaa", &["app", "app:1"]));
        let name = |text: &str| text.parse::<Reference>().unwrap();
        assert_eq!(catalog.untag(&name("app")).unwrap().tags, ["docker.io/library/app:1"]);
        assert!(catalog.untag(&name("app")).is_none());
        assert!(catalog.resolve("app").unwrap().is_none());
        assert!(catalog.untag(&name("app:1")).unwrap().tags.is_empty());
        assert_eq!(catalog.list().len(), 1, "the image stays by its id");
    }

    #[test]
    fn ambiguity_names_a_few_candidates() {
        let mut catalog = Catalog::default();
        for digits in ["aaaa1", "aaaa2", "aaaa3", "aaaa4"] {
            catalog.insert(image(digits, &[]));
        }
        let text = catalog.resolve("aaaa").unwrap_err().to_string();
        assert!(text.starts_with("image id \"aaaa\" fits 4 images: aaaa1"), "{text}");
    }
}
