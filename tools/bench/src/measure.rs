//! What can be measured, and the names that measures bear.

use std::{fmt, str::FromStr};

pub use self::object::{Keep, OBJECT_MAX, RELAYS_MAX, Size};

mod object;

/// Largest payload, in bytes: what travels inside an envelope by default.
pub const SIZE_MAX: u32 = 1 << 20;
/// Most callers on one link.
pub const CALLERS_MAX: u32 = 20_000;
/// Most receivers of one object.
pub const RECEIVERS_MAX: u32 = 64;
/// Most connected cells.
pub const CELLS_MAX: u32 = 2_000;

/// The way of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// One hop.
    Direct,
    /// Through one relay to the server.
    Relay,
    /// From site to site over the server.
    Forward,
    /// From job code, a process of its own, through the local socket of its cell, and one hop from there.
    Job,
}

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Callers in a closed loop, whose requests are echoed.
    Requests {
        /// Bytes of payload.
        size: u32,
        /// Callers.
        callers: u32,
        /// Connected cells, the calling one included.
        cells: u32,
    },
    /// Requests whose replies are held back, and the memory that they take meanwhile.
    Outstanding {
        /// Requests.
        requests: u32,
    },
    /// Messages without replies.
    Publishes {
        /// Bytes of payload.
        size: u32,
    },
    /// One object to many receivers, until the last one has acknowledged it.
    Fan {
        /// Receivers.
        receivers: u32,
        /// Bytes of the object.
        size: u32,
    },
    /// One object after the other, from the ask to its end.
    Bulk {
        /// Bytes of the object.
        size: Size,
        /// What becomes of it.
        keep: Keep,
    },
    /// One object after the other to many receivers, until the last one has given its receipt.
    Spread {
        /// Receivers.
        receivers: u32,
        /// Bytes of the object.
        size: Size,
        /// Relays that stand between; the receivers are shared out among them.
        relays: u32,
    },
    /// Connections, from dialling to ready.
    Connect,
    /// Processes, from spawning to the first reply.
    Start,
    /// Memory of the server per connected cell that says nothing.
    Idle {
        /// Connected cells.
        cells: u32,
    },
}

/// One measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// The way.
    pub route: Route,
    /// What is done.
    pub load: Load,
}

/// A family of measures: the verbs of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `rr`: request and reply.
    Request,
    /// `ff`: publish.
    Publish,
    /// `fan`: one to many.
    Fanout,
    /// `bulk`: objects.
    Transfer,
    /// `connect`, `start`, `idle`.
    Connect,
}

/// Why a text names no measure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// It has none of the forms.
    #[error(
        "`{0}` is no measure; those are rr_SIZE_cCALLERS, also with _kCELLS at its end, outstanding_REQUESTS, ff_SIZE, \
         fan_RECEIVERS_SIZE, bulk_OBJECT_drop, also _keep and _file, fan_RECEIVERS_OBJECT, also _relay and _relay2, connect, \
         start and idle_CELLS; rr, ff and bulk also with relay_ or fwd_ before them, rr also with job_; an OBJECT is 1kB to \
         100GB"
    )]
    Form(String),
    /// A number in it is too small or too large.
    #[error("{what} of `{name}` must be 1 to {max}")]
    Range {
        /// The text.
        name: String,
        /// Which number.
        what: &'static str,
        /// The largest that is taken.
        max: u32,
    },
}

impl Family {
    /// What is measured unless something else is asked for.
    #[must_use]
    pub fn usual(self) -> Vec<Measure> {
        let names: &[&str] = match self {
            Self::Request => &[
                "rr_64_c1",
                "rr_64_c32",
                "rr_1024_c32",
                "rr_65536_c1",
                "relay_rr_1024_c1",
                "relay_rr_1024_c32",
                "fwd_rr_1024_c32",
                "job_rr_64_c1",
            ],
            Self::Publish => &["ff_64", "ff_1024"],
            Self::Fanout => &[
                "fan_8_1024",
                "fan_8_65536",
                "fan_1_100MB",
                "fan_8_100MB",
                "fan_32_100MB",
                "fan_8_100MB_relay",
                "fan_8_100MB_relay2",
                "fan_32_100MB_relay2",
            ],
            Self::Transfer => &[
                "bulk_100MB_drop",
                "bulk_1GB_drop",
                "bulk_1GB_keep",
                "bulk_1GB_file",
                "relay_bulk_1GB",
                "fwd_bulk_1GB",
            ],
            Self::Connect => &["connect", "start"],
        };
        parse_all(names)
    }

    /// What shows how cost grows; nothing for families in which nothing grows.
    #[must_use]
    pub fn growth(self) -> Vec<Measure> {
        let names: &[&str] = match self {
            Self::Request => &[
                "rr_64_c10",
                "rr_64_c100",
                "rr_64_c1000",
                "rr_64_c10000",
                "rr_64_c32",
                "rr_64_c32_k10",
                "rr_64_c32_k100",
                "rr_64_c32_k1000",
                "outstanding_10000",
            ],
            Self::Publish | Self::Fanout | Self::Transfer => &[],
            Self::Connect => &["idle_200"],
        };
        parse_all(names)
    }
}

fn parse_all(names: &[&str]) -> Vec<Measure> {
    names.iter().map(|name| name.parse().expect("a test parses all of them")).collect()
}

impl Measure {
    /// The family.
    #[must_use]
    pub fn family(self) -> Family {
        match self.load {
            Load::Requests { .. } | Load::Outstanding { .. } => Family::Request,
            Load::Publishes { .. } => Family::Publish,
            Load::Fan { .. } | Load::Spread { .. } => Family::Fanout,
            Load::Bulk { .. } => Family::Transfer,
            Load::Connect | Load::Start | Load::Idle { .. } => Family::Connect,
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.route {
            Route::Direct => "",
            Route::Relay => "relay_",
            Route::Forward => "fwd_",
            Route::Job => "job_",
        })?;
        match self.load {
            Load::Requests { size, callers, cells: 1 } => write!(f, "rr_{size}_c{callers}"),
            Load::Requests { size, callers, cells } => write!(f, "rr_{size}_c{callers}_k{cells}"),
            Load::Outstanding { requests } => write!(f, "outstanding_{requests}"),
            Load::Publishes { size } => write!(f, "ff_{size}"),
            Load::Fan { receivers, size } => write!(f, "fan_{receivers}_{size}"),
            Load::Bulk { size, keep } => {
                write!(f, "bulk_{size}")?;
                match (self.route, keep) {
                    (Route::Relay | Route::Forward | Route::Job, Keep::Drop) => Ok(()),
                    (_, keep) => write!(f, "_{}", keep.name()),
                }
            }
            Load::Spread { receivers, size, relays } => {
                write!(f, "fan_{receivers}_{size}")?;
                match relays {
                    0 => Ok(()),
                    1 => f.write_str("_relay"),
                    more => write!(f, "_relay{more}"),
                }
            }
            Load::Connect => f.write_str("connect"),
            Load::Start => f.write_str("start"),
            Load::Idle { cells } => write!(f, "idle_{cells}"),
        }
    }
}

impl FromStr for Measure {
    type Err = MeasureError;

    fn from_str(name: &str) -> Result<Self, MeasureError> {
        let (route, rest) = if let Some(rest) = name.strip_prefix("relay_") {
            (Route::Relay, rest)
        } else if let Some(rest) = name.strip_prefix("fwd_") {
            (Route::Forward, rest)
        } else if let Some(rest) = name.strip_prefix("job_") {
            (Route::Job, rest)
        } else {
            (Route::Direct, name)
        };
        let number = |text: &str, what, max| number(name, text, what, max);
        let words: Vec<&str> = rest.split('_').collect();
        let load = match (route, words.as_slice()) {
            (_, ["rr", size, callers, cells @ ..]) if cells.len() <= 1 => {
                let callers = callers.strip_prefix('c').ok_or_else(|| form(name))?;
                let cells = cells.first().map(|cells| cells.strip_prefix('k'));
                let cells = cells.map(|cells| cells.ok_or_else(|| form(name))).transpose()?;
                if cells.is_some() && route != Route::Direct {
                    return Err(form(name));
                }
                Load::Requests {
                    size: number(size, "the size", SIZE_MAX)?,
                    callers: number(callers, "the number of callers", CALLERS_MAX)?,
                    cells: number(cells.unwrap_or("1"), "the number of cells", CELLS_MAX)?,
                }
            }
            // Job code speaks in requests here, and in nothing else.
            (Route::Job, _) => return Err(form(name)),
            (_, ["ff", size]) => Load::Publishes { size: number(size, "the size", SIZE_MAX)? },
            (_, ["bulk", size, keep @ ..]) if keep.len() <= 1 => Load::Bulk {
                size: size.parse().map_err(|_| form(name))?,
                keep: match keep.first() {
                    Some(keep) => Keep::named(keep).ok_or_else(|| form(name))?,
                    None => Keep::Drop,
                },
            },
            (Route::Direct, ["fan", receivers, size, relays @ ..])
                if relays.len() <= 1 && size.parse::<Size>().is_ok() =>
            {
                Load::Spread {
                    receivers: number(receivers, "the number of receivers", RECEIVERS_MAX)?,
                    size: size.parse().map_err(|_| form(name))?,
                    relays: match relays.first() {
                        None => 0,
                        Some(&"relay") => 1,
                        Some(&"relay2") => RELAYS_MAX,
                        Some(_) => return Err(form(name)),
                    },
                }
            }
            (Route::Direct, ["fan", receivers, size]) => Load::Fan {
                receivers: number(receivers, "the number of receivers", RECEIVERS_MAX)?,
                size: number(size, "the size", SIZE_MAX)?,
            },
            (Route::Direct, ["idle", cells]) => {
                Load::Idle { cells: number(cells, "the number of cells", CELLS_MAX)? }
            }
            (Route::Direct, ["outstanding", requests]) => Load::Outstanding {
                requests: number(requests, "the number of requests", CALLERS_MAX)?,
            },
            (Route::Direct, ["connect"]) => Load::Connect,
            (Route::Direct, ["start"]) => Load::Start,
            _ => return Err(form(name)),
        };
        Ok(Self { route, load })
    }
}

fn form(name: &str) -> MeasureError {
    MeasureError::Form(name.to_owned())
}

fn number(name: &str, text: &str, what: &'static str, max: u32) -> Result<u32, MeasureError> {
    if text.is_empty() || text.starts_with('0') && text.len() > 1 {
        return Err(form(name));
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(form(name));
    }
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| MeasureError::Range { name: name.to_owned(), what, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_is_written_as_it_is_read_and_belongs_to_its_family() {
        for family in
            [Family::Request, Family::Publish, Family::Fanout, Family::Transfer, Family::Connect]
        {
            assert!(!family.usual().is_empty());
            for measure in family.usual().into_iter().chain(family.growth()) {
                assert_eq!(measure.to_string().parse(), Ok(measure));
                assert_eq!(measure.family(), family);
            }
        }
    }

    #[test]
    fn the_name_of_one_cell_is_the_name_without_cells() {
        let measure: Measure = "rr_64_c32_k1".parse().expect("a measure");
        assert_eq!(measure.to_string(), "rr_64_c32");
    }

    #[test]
    fn what_is_no_measure_is_refused() {
        for bad in [
            "",
            "rr",
            "rr_64",
            "rr_64_32",
            "rr_64_c",
            "rr_c64_c1",
            "rr_064_c1",
            "rr_+64_c1",
            "rr_64_c1_k",
            "rr_64_c1_k2_k3",
            "relay_rr_64_c1_k2",
            "relay_connect",
            "fwd_start",
            "job_ff_64",
            "job_rr_64_c1_k2",
            "relay_outstanding_5",
            "outstanding",
            "relay_fan_8_64",
            "relay_relay_rr_64_c1",
            "RR_64_c1",
            "ff",
            "ff_64_c1",
            "fan_8",
            "idle",
            "bulk",
            "bulk_1000_drop",
            "bulk_1GB_other",
            "bulk_1GB_keep_file",
            "fan_8_100MB_relay3",
            "fan_8_100MB_relay_relay",
            "relay_fan_8_100MB",
        ] {
            assert_eq!(bad.parse::<Measure>(), Err(form(bad)), "{bad}");
        }
        for bad in ["rr_0_c1", "rr_1048577_c1", "rr_64_c0", "rr_64_c20001", "fan_65_64", "idle_0"] {
            let refused = bad.parse::<Measure>();
            assert!(matches!(refused, Err(MeasureError::Range { .. })), "{bad}: {refused:?}");
        }
    }
}
