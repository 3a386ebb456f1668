//! The command line.

use std::path::PathBuf;

use crate::rows::Group;

pub(crate) const USAGE: &str = "usage: bench --floor PROGRAM [--quick] [--only NAME]... [--rounds N] [--no-peer] \
     [--json] [--file PATH]\nNAME is one of: pods parallel exec list memory pull-files pull-layers pull-large, or a beginning of some";

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    /// The built example `floor`.
    pub(crate) floor: PathBuf,
    /// Fewer rounds, smaller images.
    pub(crate) quick: bool,
    /// Empty: all.
    only: Vec<String>,
    rounds: Option<usize>,
    /// Without containerd, also where it is installed.
    pub(crate) no_peer: bool,
    /// JSON instead of the table.
    pub(crate) json: bool,
    /// Where to put the JSON.
    pub(crate) file: Option<PathBuf>,
}

impl Arguments {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self::default();
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => arguments.quick = true,
                "--no-peer" => arguments.no_peer = true,
                "--json" => arguments.json = true,
                "--only" => arguments.only.push(value()?),
                "--file" => arguments.file = Some(value()?.into()),
                "--floor" => arguments.floor = value()?.into(),
                "--rounds" => {
                    let number = value()?;
                    let rounds = number.parse().ok().filter(|&rounds| rounds > 0);
                    arguments.rounds = Some(rounds.ok_or_else(|| format!("{number:?} rounds"))?);
                }
                unknown => return Err(format!("{unknown} is unknown")),
            }
        }
        if arguments.floor.as_os_str().is_empty() {
            return Err("--floor is missing".into());
        }
        match arguments.only.iter().find(|name| !Group::ALL.iter().any(|group| fits(*group, name)))
        {
            Some(name) => Err(format!("there is no measurement {name:?}")),
            None => Ok(arguments),
        }
    }

    pub(crate) fn wants(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| fits(group, name))
    }

    /// Rounds of a measurement that takes so many in a whole run, and so many in a quick one.
    pub(crate) fn rounds(&self, whole: usize, quick: usize) -> usize {
        self.rounds.unwrap_or(if self.quick { quick } else { whole })
    }

    /// Picks a size.
    pub(crate) fn size(&self, whole: usize, quick: usize) -> usize {
        if self.quick { quick } else { whole }
    }
}

fn fits(group: Group, name: &str) -> bool {
    group.name().starts_with(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let parse = |line: &str| Arguments::parse(line.split(' ').map(str::to_owned));
        let wanted = |line: &str| {
            let arguments = parse(line).expect("is fine");
            Group::ALL.into_iter().filter(|group| arguments.wants(*group)).count()
        };
        assert_eq!(wanted("--floor f"), 8, "all");
        assert_eq!(wanted("--floor f --only pull --only exec"), 4, "three pulls, and one");
        let rounds = |line: &str| parse(line).expect("is fine").rounds(5, 2);
        assert_eq!(rounds("--floor f"), 5, "whole");
        assert_eq!(rounds("--floor f --quick"), 2, "quick");
        assert_eq!(rounds("--floor f --quick --rounds 9"), 9, "as asked for");
        for (name, line, want) in [
            ("no floor", "--quick", "--floor is missing"),
            ("no value", "--only", "--only needs a value"),
            ("no number", "--floor f --rounds 0", "\"0\" rounds"),
            ("no such thing", "--floor f --only tea", "there is no measurement \"tea\""),
            ("no such option", "--fast", "--fast is unknown"),
        ] {
            assert_eq!(parse(line).expect_err(name), want, "{name}");
        }
    }
}
