//! A bar for each layer, on a terminal.

use std::io::{self, Write};

use cri_api::berth::v1::layer_progress::State;
use cri_api::berth::v1::{LayerProgress, PullProgress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::output::{escape, human};

#[derive(Default)]
pub(super) struct Bars {
    all: MultiProgress,
    layers: Vec<ProgressBar>,
    has_named: bool,
}

impl Bars {
    pub(super) fn show(&mut self, progress: &PullProgress) {
        if !self.has_named && !progress.resolved.is_empty() {
            self.has_named = true;
            // A line above the bars that cannot be drawn is not worth ending a pull for.
            self.all.println(escape(&progress.resolved, "")).ok();
        }
        for (index, layer) in progress.layers.iter().enumerate() {
            if index == self.layers.len() {
                self.layers.push(self.all.add(bar(layer)));
            }
            update(&self.layers[index], layer);
        }
    }
}

/// The cursor stands behind the last bar; what comes next has a line of its own.
impl Drop for Bars {
    fn drop(&mut self) {
        if !self.layers.is_empty() {
            writeln!(io::stderr()).ok();
        }
    }
}

fn bar(layer: &LayerProgress) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{prefix}  {bar:32}  {decimal_bytes:>10} of {decimal_total_bytes:10}  {wide_msg}",
    )
    .expect("the template is well formed")
    .progress_chars("━╸─");
    let id = escape(human::short_id(&layer.digest), "").into_owned();
    ProgressBar::new(layer.total).with_style(style).with_prefix(id)
}

fn update(bar: &ProgressBar, layer: &LayerProgress) {
    bar.set_length(layer.total);
    let word = match layer.state() {
        State::Waiting => "waiting",
        State::Downloading => "",
        State::Unpacked => "done",
        State::Exists => "was here already",
    };
    match layer.state() {
        State::Waiting | State::Downloading => {
            bar.set_position(layer.done);
            bar.set_message(word);
        }
        State::Unpacked | State::Exists => {
            bar.set_position(layer.total);
            if !bar.is_finished() {
                bar.abandon_with_message(word);
            }
        }
    }
}
