//! The limits, windows and timers of a deployment: their defaults, floors and ceilings, and which
//! of them must go together.

use std::{fmt, ops::Range, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{
    problem::{Code, Problem, Problems},
    wording::{nearest, quoted},
};

/// How a link answers loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Congestion {
    /// Backs off on loss; the default of QUIC.
    #[default]
    Cubic,
    /// Follows the measured bandwidth; for paths that lose packets at random.
    Bbr,
}

impl Congestion {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Cubic, Self::Bbr];

    /// The word for it in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is known about one key of `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    /// The key; its unit stands in its name.
    pub key: &'static str,
    /// Unit of the figures: `ms`, `s`, `bytes` or empty for a count.
    pub unit: &'static str,
    /// Used where the file says nothing.
    pub default: u64,
    /// The least value allowed.
    pub floor: u64,
    /// The greatest value allowed.
    pub ceiling: u64,
    /// What it limits.
    pub about: &'static str,
}

/// A figure of the file as the value that the code works with, and back.
trait Unit<T> {
    const NAME: &'static str;
    fn value(figure: u64) -> T;
    fn figure(value: T) -> u64;
}

struct Ms;
struct Seconds;
struct Bytes;
struct Count;

impl Unit<Duration> for Ms {
    const NAME: &'static str = "ms";
    fn value(figure: u64) -> Duration {
        Duration::from_millis(figure)
    }
    fn figure(value: Duration) -> u64 {
        u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Unit<Duration> for Seconds {
    const NAME: &'static str = "s";
    fn value(figure: u64) -> Duration {
        Duration::from_secs(figure)
    }
    fn figure(value: Duration) -> u64 {
        value.as_secs()
    }
}

macro_rules! integers {
    ($($unit:ident $name:literal: $($int:ty),*;)*) => {$($(
        impl Unit<$int> for $unit {
            const NAME: &'static str = $name;
            fn value(figure: u64) -> $int {
                figure.try_into().expect("a figure below its ceiling fits its type")
            }
            fn figure(value: $int) -> u64 {
                value.try_into().unwrap_or(u64::MAX)
            }
        }
    )*)*};
}

integers! {
    Bytes "bytes": u32, usize;
    Count "": u8, u32, usize;
}

/// Declares every limit once: `key => field: type as unit = default, floor to ceiling`.
macro_rules! limits {
    ($(
        #[doc = $about:literal]
        $key:ident => $field:ident: $type:ty as $unit:ident
            = $default:literal, $floor:literal to $ceiling:literal;
    )*) => {
        /// Every limit, window and timer of a deployment.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $(#[doc = $about] pub $field: $type,)*
            /// How links answer loss.
            pub congestion: Congestion,
            /// Whether taps on a cell may show payloads.
            pub tap_payload: bool,
        }

        impl Limits {
            /// Every key with its default, floor and ceiling, in the order of the reference.
            pub const SPECS: &[LimitSpec] = &[$(LimitSpec {
                key: stringify!($key),
                unit: <$unit as Unit<$type>>::NAME,
                default: $default,
                floor: $floor,
                ceiling: $ceiling,
                about: $about.trim_ascii(),
            }),*];

            /// Every key with its figure, in the unit of the key; ordered as [`Limits::SPECS`].
            pub fn figures(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($key), <$unit as Unit<$type>>::figure(self.$field))),*].into_iter()
            }

            /// The limits with the figures that `figure` gives for each key.
            fn from_figures(
                mut figure: impl FnMut(&LimitSpec) -> u64,
                congestion: Congestion,
            ) -> Self {
                let mut specs = Self::SPECS.iter();
                Self {
                    $($field: <$unit as Unit<$type>>::value(
                        figure(specs.next().expect("one entry per field")),
                    ),)*
                    congestion,
                    tap_payload: false,
                }
            }
        }

        /// `[limits]`: every limit, window and timer; what is left out has its default.
        #[derive(Debug, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(rename = "Limits")]
        pub(super) struct RawLimits {
            $(
                #[doc = $about]
                #[schemars(with = "Option<u64>", range(min = $floor, max = $ceiling))]
                #[schemars(extend("default" = $default))]
                pub $key: Option<Spanned<u64>>,
            )*
            /// How links answer loss.
            #[schemars(with = "Option<Congestion>")]
            pub congestion: Option<Spanned<String>>,
            /// Whether taps on a cell may show payloads.
            #[schemars(with = "Option<bool>", extend("default" = false))]
            pub tap_payload: Option<Spanned<bool>>,
        }

        impl RawLimits {
            fn given(&self, key: &str) -> Option<&Spanned<u64>> {
                match key {
                    $(stringify!($key) => self.$key.as_ref(),)*
                    _ => None,
                }
            }
        }
    };
}

limits! {
    /// Budget of a request that names none.
    budget_default_ms => budget_default: Duration as Ms = 30_000, 1 to 3_600_000;
    /// Hops after which a message is returned.
    hops_max => hops_max: u8 as Count = 16, 1 to 16;
    /// Largest payload that travels inside an envelope; larger ones are transfers.
    inline_payload_max_bytes => inline_payload_max_bytes: usize as Bytes = 1_048_576, 1_024 to 16_777_216;
    /// Largest encoded header.
    header_max_bytes => header_max_bytes: usize as Bytes = 16_384, 1_024 to 16_384;
    /// Bytes that may wait towards one link; past that, senders are told that it is busy.
    outbox_max_bytes => outbox_max_bytes: usize as Bytes = 8_388_608, 65_536 to 268_435_456;
    /// Bytes read from one link and not yet handled; past that, its reader waits.
    inbound_max_bytes_per_link => inbound_max_bytes_per_link: usize as Bytes = 8_388_608, 65_536 to 268_435_456;
    /// Handlers of one cell that run at a time.
    handlers_max => handlers_max: usize as Count = 256, 1 to 65_536;
    /// Time between two heartbeats.
    beat_interval_ms => beat_interval: Duration as Ms = 1_000, 100 to 30_000;
    /// Time without an answered heartbeat after which a link is closed.
    beat_deadline_ms => beat_deadline: Duration as Ms = 4_000, 200 to 60_000;
    /// Silence after which QUIC gives a connection up; the backstop of the heartbeat.
    idle_timeout_ms => idle_timeout: Duration as Ms = 10_000, 1_000 to 120_000;
    /// Time between the packets that keep a connection open; sent by the side that dialled.
    keep_alive_ms => keep_alive: Duration as Ms = 2_000, 100 to 60_000;
    /// Time in which a new connection must have said who it is.
    handshake_deadline_ms => handshake_deadline: Duration as Ms = 5_000, 100 to 30_000;
    /// Life of a challenge.
    challenge_ttl_ms => challenge_ttl: Duration as Ms = 30_000, 1_000 to 60_000;
    /// Life of a session token.
    token_ttl_s => token_ttl: Duration as Seconds = 900, 10 to 900;
    /// Bytes that a peer may send on one stream before they are read.
    stream_receive_window_bytes => stream_receive_window_bytes: u32 as Bytes = 1_048_576, 65_536 to 16_777_216;
    /// Bytes that a peer may send on all streams before they are read.
    receive_window_bytes => receive_window_bytes: u32 as Bytes = 45_088_768, 1_310_720 to 268_435_456;
    /// Bytes sent on one connection and not yet acknowledged.
    send_window_bytes => send_window_bytes: u32 as Bytes = 8_388_608, 65_536 to 268_435_456;
    /// One-way streams that a peer may have open.
    uni_streams_max => uni_streams_max: u32 as Count = 4, 1 to 256;
    /// Two-way streams that a peer may have open: one for control, the others for conduits.
    bidi_streams_max => bidi_streams_max: u32 as Count = 19, 1 to 256;
    /// Bytes a second of transfers that one end of a link may send, all together; the default is no limit.
    transfer_rate_max_bytes_per_s => transfer_rate_max: usize as Bytes = 1_099_511_627_776u64, 1_048_576u64 to 1_099_511_627_776u64;
    /// Bytes of transfers that a relay may keep for receivers behind it, in files in its state directory; with 0 nothing is shared.
    transfer_spool_max_bytes => transfer_spool_max: usize as Bytes = 1_073_741_824u64, 0u64 to 1_099_511_627_776u64;
    /// Time for which a relay keeps all bytes of a transfer that nobody reads, for late receivers and for transfers of the same bytes; a part of them is kept for a minute at most.
    transfer_spool_keep_ms => transfer_spool_keep: Duration as Ms = 3_600_000, 1_000 to 86_400_000;
    /// Send and receive buffer of the UDP socket, each.
    socket_buffer_bytes => socket_buffer_bytes: usize as Bytes = 4_194_304, 65_536 to 67_108_864;
    /// Time that a draining cell gives to what is running.
    drain_deadline_ms => drain_deadline: Duration as Ms = 30_000, 100 to 3_600_000;
    /// Longest wait before the first attempt to reconnect; doubles with each attempt.
    reconnect_base_ms => reconnect_base: Duration as Ms = 200, 10 to 60_000;
    /// Longest wait between two attempts to reconnect.
    reconnect_cap_ms => reconnect_cap: Duration as Ms = 10_000, 100 to 600_000;
    /// Times that one child may leave and come back within a minute before it has to wait.
    returns_per_minute_max => returns_per_minute_max: usize as Count = 5, 1 to 100_000;
}

/// Pairs of which the first must be less than the second, and why.
const ORDER: &[(&str, &str, &str)] = &[
    ("beat_interval_ms", "beat_deadline_ms", "a deadline below the interval closes every link"),
    ("beat_deadline_ms", "idle_timeout_ms", "the heartbeat must notice a dead link first"),
    ("keep_alive_ms", "idle_timeout_ms", "connections would end while they are kept alive"),
    ("reconnect_base_ms", "reconnect_cap_ms", "the first wait is the shortest"),
];

/// Buffers that must hold one message of the greatest size.
const HOLDS_ONE: [&str; 2] = ["outbox_max_bytes", "inbound_max_bytes_per_link"];

impl Limits {
    /// Bytes of the connection window that bulk can never fill, so that control gets through.
    pub const LANE_RESERVE_BYTES: u64 = 1 << 20;

    /// Bytes that full streams and the reserve need of the connection window. Two-way streams count twice:
    /// those that this end opens are read as well.
    ///
    /// The lane rule: this is at most [`Limits::receive_window_bytes`].
    #[must_use]
    pub fn lane_rule_bytes(&self) -> u64 {
        let streams = u64::from(self.uni_streams_max) + 2 * u64::from(self.bidi_streams_max);
        streams * u64::from(self.stream_receive_window_bytes) + Self::LANE_RESERVE_BYTES
    }

    /// The limits that `raw` states; a bad figure is reported and its default stands in.
    pub(super) fn settle(raw: &RawLimits, section: Range<usize>, problems: &mut Problems) -> Self {
        let mut bad = Vec::new();
        let congestion = congestion(raw.congestion.as_ref(), problems);
        let limits = Self::from_figures(
            |spec| {
                let Some(given) = raw.given(spec.key) else {
                    return spec.default;
                };
                let figure = *given.get_ref();
                if (spec.floor..=spec.ceiling).contains(&figure) {
                    return figure;
                }
                bad.push(spec.key);
                problems.add(out_of_range(spec, figure, given.span()));
                spec.default
            },
            congestion,
        );
        let tap_payload = raw.tap_payload.as_ref().is_some_and(|given| *given.get_ref());
        let limits = Self { tap_payload, ..limits };
        let relations = Relations { limits: &limits, raw, section, bad };
        relations.check(problems);
        limits
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::from_figures(|spec| spec.default, Congestion::default())
    }
}

/// The rules between figures that are each within their own range.
struct Relations<'a> {
    limits: &'a Limits,
    raw: &'a RawLimits,
    section: Range<usize>,
    bad: Vec<&'static str>,
}

impl Relations<'_> {
    fn check(&self, problems: &mut Problems) {
        for &(less, more, why) in ORDER {
            let (low, high) = (self.figure(less), self.figure(more));
            if low >= high && self.all_good(&[less, more]) {
                let message = format!("`{less}` ({low}) must be below `{more}` ({high})");
                let help = format!("raise `{more}`, or lower `{less}`");
                let problem = self.about(Code::LimitOrder, &[more, less], message, why);
                problems.add(problem.help(help));
            }
        }
        let largest = ["inline_payload_max_bytes", "header_max_bytes"];
        let needed = largest.iter().map(|key| self.figure(key)).sum::<u64>();
        for buffer in HOLDS_ONE {
            let held = self.figure(buffer);
            if held < needed && self.all_good(&[buffer, largest[0], largest[1]]) {
                let message = format!("`{buffer}` ({held}) holds no message of the greatest size");
                let label = format!("header and payload need {needed} bytes");
                let keys = [buffer, largest[0], largest[1]];
                let help = format!("raise `{buffer}`, or lower `{}`", largest[0]);
                let problem = self.about(Code::LimitOrder, &keys, message, &label);
                problems.add(problem.help(help));
            }
        }
        self.check_lanes(problems);
    }

    fn check_lanes(&self, problems: &mut Problems) {
        let keys = [
            "receive_window_bytes",
            "stream_receive_window_bytes",
            "uni_streams_max",
            "bidi_streams_max",
        ];
        let (needed, window) =
            (self.limits.lane_rule_bytes(), u64::from(self.limits.receive_window_bytes));
        if needed <= window || !self.all_good(&keys) {
            return;
        }
        let message = format!(
            "full bulk streams would silence the control lane: they need {needed} bytes of a \
             receive window of {window}"
        );
        let label = "(uni_streams_max + 2 x bidi_streams_max) x stream_receive_window_bytes + 1 MiB \
                     must be at most receive_window_bytes";
        let help =
            format!("set receive_window_bytes = {needed}, or allow fewer or smaller streams");
        problems.add(self.about(Code::LaneRule, &keys, message, label).help(help));
    }

    /// A problem at the first of `keys` that the file gives; the second one is its other place.
    fn about(&self, code: Code, keys: &[&str], message: String, label: &str) -> Problem {
        let mut given = keys.iter().filter_map(|key| Some((key, self.raw.given(key)?.span())));
        let Some((_, span)) = given.next() else {
            return Problem::new(code, self.section.clone(), message, label);
        };
        let problem = Problem::new(code, span, message, label);
        match given.next() {
            Some((_, span)) => problem.also(span, "together with this"),
            None => problem,
        }
    }

    fn figure(&self, key: &str) -> u64 {
        let found = self.limits.figures().find(|(known, _)| *known == key);
        found.expect("rules name keys that exist").1
    }

    fn all_good(&self, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.bad.contains(key))
    }
}

fn out_of_range(spec: &LimitSpec, figure: u64, span: Range<usize>) -> Problem {
    let LimitSpec { key, floor, ceiling, default, .. } = spec;
    let (word, bound) =
        if figure < *floor { ("below its floor", floor) } else { ("above its ceiling", ceiling) };
    let message = format!("`{key}` = {figure} is {word} of {bound}");
    Problem::new(Code::LimitRange, span, message, format!("allowed is {floor} to {ceiling}"))
        .help(format!("without this line it is {default}"))
}

fn congestion(given: Option<&Spanned<String>>, problems: &mut Problems) -> Congestion {
    let Some(given) = given else {
        return Congestion::default();
    };
    let text = given.get_ref().as_str();
    if let Some(choice) = Congestion::ALL.into_iter().find(|choice| choice.as_str() == text) {
        return choice;
    }
    let message = format!("{} is not a way to control congestion", quoted(text));
    let problem = Problem::new(Code::BadChoice, given.span(), message, "not one of the choices");
    let meant = nearest(text, Congestion::ALL.map(Congestion::as_str));
    problems.add(problem.help(match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "choices are `cubic` and `bbr`".to_owned(),
    }));
    Congestion::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_stand_between_floor_and_ceiling_and_ceilings_fit_their_types() {
        for spec in Limits::SPECS {
            assert!(spec.floor <= spec.default && spec.default <= spec.ceiling, "{}", spec.key);
        }
        for bound in [|spec: &LimitSpec| spec.floor, |spec: &LimitSpec| spec.ceiling] {
            let limits = Limits::from_figures(bound, Congestion::Bbr);
            for ((key, figure), spec) in limits.figures().zip(Limits::SPECS) {
                assert_eq!((key, figure), (spec.key, bound(spec)));
            }
        }
    }

    #[test]
    fn every_key_says_its_unit() {
        for spec in Limits::SPECS {
            let ends = match spec.unit {
                "bytes" => spec.key.ends_with("_bytes") || spec.key.contains("_bytes_"),
                "ms" => spec.key.ends_with("_ms"),
                "s" => spec.key.ends_with("_s"),
                _ => spec.key.ends_with("_max"),
            };
            assert!(ends, "{}", spec.key);
        }
    }

    #[test]
    fn the_defaults_break_no_rule() {
        let mut problems = Problems::default();
        let limits = Limits::settle(&RawLimits::default(), 0..0, &mut problems);
        assert_eq!(problems.into_sorted(), []);
        assert_eq!(limits, Limits::default());
        assert_eq!(limits.lane_rule_bytes(), u64::from(limits.receive_window_bytes));
        assert_eq!(limits.beat_deadline, Duration::from_secs(4));
        assert_eq!(limits.token_ttl, Duration::from_secs(900));
    }
}
