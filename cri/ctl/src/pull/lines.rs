//! A line for each event of a pull, for logs and pipes.

use cri_api::berth::v1::PullProgress;
use cri_api::berth::v1::layer_progress::State;

use crate::output::human;

#[derive(Default)]
pub(super) struct Lines {
    has_named: bool,
    /// The state of each layer when it was last told.
    told: Vec<State>,
}

impl Lines {
    /// What has changed since the last call, but for bytes.
    pub(super) fn news(&mut self, progress: &PullProgress) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.has_named && !progress.resolved.is_empty() {
            self.has_named = true;
            lines.push(format!("pulling {}", progress.resolved));
        }
        self.told.resize(self.told.len().max(progress.layers.len()), State::Waiting);
        for (layer, told) in progress.layers.iter().zip(&mut self.told) {
            if layer.state() == *told {
                continue;
            }
            *told = layer.state();
            let id = human::short_id(&layer.digest);
            lines.push(match layer.state() {
                State::Waiting => format!("layer {id}: waiting"),
                State::Downloading => format!("layer {id}: {} to come", human::size(layer.total)),
                State::Unpacked => format!("layer {id}: done"),
                State::Exists => format!("layer {id}: was here already"),
            });
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::berth::v1::LayerProgress;

    #[test]
    fn only_news_are_told() {
        let layer = |state: State, done| LayerProgress {
            digest: "sha256:0123456789abcdef".into(),
            done,
            total: 1_500_000,
            state: state.into(),
        };
        let progress = |state, done| PullProgress {
            resolved: "docker.io/library/busybox:latest".into(),
            layers: vec![layer(state, done)],
            ..Default::default()
        };
        let mut lines = Lines::default();
        assert!(lines.news(&PullProgress::default()).is_empty());
        assert_eq!(
            lines.news(&progress(State::Waiting, 0)),
            ["pulling docker.io/library/busybox:latest"]
        );
        assert_eq!(
            lines.news(&progress(State::Downloading, 10)),
            ["layer 0123456789abc: 1.5MB to come"]
        );
        assert!(lines.news(&progress(State::Downloading, 900)).is_empty());
        assert_eq!(lines.news(&progress(State::Unpacked, 1000)), ["layer 0123456789abc: done"]);
    }
}
