//! Samples, and the few numbers that stand for them.

use std::collections::BTreeMap;

/// Who was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Berth,
    Floor,
    Containerd,
}

/// One measured value of one row: seconds, or bytes.
pub(crate) type Sample = (&'static str, f64);

/// All samples of one row and one party, round by round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figure {
    rounds: Vec<Vec<f64>>,
}

impl Figure {
    /// The median of the means of the rounds: a disturbed round moves it little, and so does a disturbed sample.
    pub(crate) fn center(&self) -> Option<f64> {
        let mean = |round: &Vec<f64>| round.iter().sum::<f64>() / number(round.len());
        quantile(self.rounds.iter().filter(|round| !round.is_empty()).map(mean).collect(), 0.5)
    }

    /// The median of all samples.
    pub(crate) fn median(&self) -> Option<f64> {
        quantile(self.all(), 0.5)
    }

    /// The sample that 95 of 100 do not exceed.
    pub(crate) fn p95(&self) -> Option<f64> {
        quantile(self.all(), 0.95)
    }

    pub(crate) fn count(&self) -> usize {
        self.rounds.iter().map(Vec::len).sum()
    }

    fn all(&self) -> Vec<f64> {
        self.rounds.concat()
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of samples are small")]
fn number(count: usize) -> f64 {
    count as f64
}

/// The smallest value that at least `part` of all values do not exceed; of an even number, the middle is between two.
fn quantile(mut values: Vec<f64>, part: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let place = number(values.len()) * part;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, and not below zero"
    )]
    let index = (place.ceil() as usize).saturating_sub(1);
    let value = *values.get(index)?;
    let next = values.get(index + 1).filter(|_| (place - place.ceil()).abs() < f64::EPSILON);
    Some(next.map_or(value, |next| f64::midpoint(value, *next)))
}

/// Everything measured in this run.
#[derive(Debug, Default)]
pub(crate) struct Results {
    figures: BTreeMap<(&'static str, Who), Figure>,
}

impl Results {
    /// Takes the samples of one round.
    pub(crate) fn add(&mut self, who: Who, samples: Vec<Sample>) {
        let mut rounds: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for (row, value) in samples {
            rounds.entry(row).or_default().push(value);
        }
        for (row, values) in rounds {
            self.figures.entry((row, who)).or_default().rounds.push(values);
        }
    }

    pub(crate) fn get(&self, row: &'static str, who: Who) -> Option<&Figure> {
        self.figures.get(&(row, who))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let up_to = |last: u32| (1..=last).map(f64::from).collect::<Vec<_>>();
        let cases = [
            ("nothing", Vec::new(), 0.5, None),
            ("one value", up_to(1), 0.5, Some(1.0)),
            ("the middle of three", up_to(3), 0.5, Some(2.0)),
            ("between the middle two", up_to(4), 0.5, Some(2.5)),
            ("19 of 20 do not exceed it, nor the next", up_to(20), 0.95, Some(19.5)),
            ("of few, the last", up_to(5), 0.95, Some(5.0)),
        ];
        for (name, values, part, want) in cases {
            assert_eq!(quantile(values, part), want, "{name}");
        }
    }

    #[test]
    fn a_disturbed_round_hardly_counts() {
        let mut results = Results::default();
        for round in [[1.0, 3.0], [2.0, 4.0], [90.0, 110.0]] {
            results.add(Who::Berth, round.map(|value| ("row", value)).to_vec());
        }
        let figure = results.get("row", Who::Berth).expect("was added");
        assert_eq!((figure.center(), figure.median(), figure.count()), (Some(3.0), Some(3.5), 6));
        assert!(results.get("row", Who::Floor).is_none());
    }
}
