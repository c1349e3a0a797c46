//! What a site lets jobs ask of its Slurm cluster, and the one way to ask.
//!
//! A site writes what every job of a program gets, and how far a job may say otherwise. [`SlurmSpec::grant`] is the
//! only place where both become one request; every value of it is a plain word or a number, so that nothing of it
//! can be an option, a path or a line of a script.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::is_word;

/// Minutes in the longest time limit: a year.
const MINUTES_MAX: u32 = 366 * 24 * 60;
/// Kinds of generic resources in one request.
const GRES_MAX: usize = 16;

/// How a program is given to Slurm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmSpec {
    /// The directory of `sbatch`, `squeue`, `scontrol`, `scancel` and `sacct`; absolute. `None` for `/usr/bin`.
    pub commands: Option<String>,
    /// The file that tells them about the cluster; absolute. `None` for the one that they find by themselves.
    pub conf: Option<String>,
    /// What a job gets that says nothing.
    pub request: SlurmRequest,
    /// How far a job may say otherwise.
    pub allow: SlurmAllowance,
}

/// What is asked of Slurm for one job; `None` is what the cluster gives by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmRequest {
    /// The partition.
    pub partition: Option<String>,
    /// The account that pays.
    pub account: Option<String>,
    /// The quality of service.
    pub qos: Option<String>,
    /// Minutes after which Slurm ends it.
    pub time_limit_min: Option<u32>,
    /// Processors.
    pub cpus: Option<u32>,
    /// MiB of memory.
    pub memory_mib: Option<u64>,
    /// How many of each generic resource, such as `gpu` or `gpu:a100`.
    pub gres: BTreeMap<String, u32>,
}

/// What a job may ask for; what stands nowhere here, no job may set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmAllowance {
    /// Partitions to choose from.
    pub partitions: BTreeSet<String>,
    /// Accounts to choose from.
    pub accounts: BTreeSet<String>,
    /// Qualities of service to choose from.
    pub qos: BTreeSet<String>,
    /// The longest time limit, in minutes.
    pub time_limit_min: Option<u32>,
    /// The most processors.
    pub cpus: Option<u32>,
    /// The most memory, in MiB.
    pub memory_mib: Option<u64>,
    /// The most of each generic resource.
    pub gres: BTreeMap<String, u32>,
}

/// Why something is not asked of Slurm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlurmRefusal {
    /// The site lets no job set this.
    #[error("no job may set `{0}` here")]
    NotForJobs(&'static str),
    /// The job chooses something that the site does not let it choose.
    #[error("`{field}` cannot be {given:?} here")]
    NotAmong {
        /// What it sets.
        field: &'static str,
        /// What it chooses.
        given: String,
    },
    /// The job wants more than the site gives.
    #[error("`{field}` is at most {limit} here, the job wants {wanted}")]
    TooMuch {
        /// What it wants more of.
        field: String,
        /// The most.
        limit: u64,
        /// What it wants.
        wanted: u64,
    },
    /// A value that no cluster has a meaning for.
    #[error("{given:?} cannot be the value of `{field}`: {takes}")]
    Value {
        /// What it would be the value of.
        field: &'static str,
        /// The value, shortened.
        given: String,
        /// What it takes.
        takes: &'static str,
    },
}

impl SlurmSpec {
    /// Whether every value in it is one that can be used.
    ///
    /// # Errors
    /// [`SlurmRefusal::Value`] for the first that is not.
    pub fn check(&self) -> Result<(), SlurmRefusal> {
        for (field, path) in [("commands", &self.commands), ("conf", &self.conf)] {
            if let Some(path) = path {
                let is_path = path.starts_with('/') && !path.chars().any(char::is_control);
                refuse_unless(is_path, field, path, "an absolute path")?;
            }
        }
        self.request.check()?;
        let allow = &self.allow;
        for (field, words) in
            [("partition", &allow.partitions), ("account", &allow.accounts), ("qos", &allow.qos)]
        {
            words.iter().try_for_each(|word| check_word(field, word))?;
        }
        check_numbers(allow.time_limit_min, allow.cpus, allow.memory_mib)?;
        check_gres(&allow.gres)
    }

    /// What is asked for a job that has these wishes; a wish takes the place of what the site gives by itself.
    ///
    /// # Errors
    /// [`SlurmRefusal`] for the first wish that the site does not let a job have; nothing is asked instead.
    pub fn grant(&self, wishes: &SlurmRequest) -> Result<SlurmRequest, SlurmRefusal> {
        wishes.check()?;
        let allow = &self.allow;
        let SlurmRequest { partition, account, qos, time_limit_min, cpus, memory_mib, gres } =
            wishes;
        let mut granted = self.request.clone();
        for (field, wish, among, place) in [
            ("partition", partition, &allow.partitions, &mut granted.partition),
            ("account", account, &allow.accounts, &mut granted.account),
            ("qos", qos, &allow.qos, &mut granted.qos),
        ] {
            if let Some(wish) = wish {
                if among.is_empty() {
                    return Err(SlurmRefusal::NotForJobs(field));
                }
                if !among.contains(wish) {
                    return Err(SlurmRefusal::NotAmong { field, given: wish.clone() });
                }
                *place = Some(wish.clone());
            }
        }
        if let Some(wish) = *time_limit_min {
            within("time_limit_min", wish.into(), allow.time_limit_min.map(u64::from))?;
            granted.time_limit_min = Some(wish);
        }
        if let Some(wish) = *cpus {
            within("cpus", wish.into(), allow.cpus.map(u64::from))?;
            granted.cpus = Some(wish);
        }
        if let Some(wish) = *memory_mib {
            within("memory_mib", wish, allow.memory_mib)?;
            granted.memory_mib = Some(wish);
        }
        for (name, wish) in gres {
            let Some(limit) = allow.gres.get(name) else {
                return Err(SlurmRefusal::NotAmong { field: "gres", given: name.clone() });
            };
            if wish > limit {
                let (limit, wanted) = ((*limit).into(), (*wish).into());
                return Err(SlurmRefusal::TooMuch { field: format!("gres {name}"), limit, wanted });
            }
            granted.gres.insert(name.clone(), *wish);
        }
        Ok(granted)
    }
}

impl SlurmRequest {
    /// Whether every value in it is a plain word or a number that means something.
    ///
    /// # Errors
    /// [`SlurmRefusal::Value`] for the first that is not.
    pub fn check(&self) -> Result<(), SlurmRefusal> {
        for (field, word) in
            [("partition", &self.partition), ("account", &self.account), ("qos", &self.qos)]
        {
            word.iter().try_for_each(|word| check_word(field, word))?;
        }
        check_numbers(self.time_limit_min, self.cpus, self.memory_mib)?;
        check_gres(&self.gres)
    }
}

fn within(field: &'static str, wanted: u64, limit: Option<u64>) -> Result<(), SlurmRefusal> {
    match limit {
        None => Err(SlurmRefusal::NotForJobs(field)),
        Some(limit) if wanted > limit => {
            Err(SlurmRefusal::TooMuch { field: field.to_owned(), limit, wanted })
        }
        Some(_) => Ok(()),
    }
}

fn check_word(field: &'static str, word: &str) -> Result<(), SlurmRefusal> {
    let takes = "1 to 63 letters, digits, `_`, `.` and `-`, the first a letter or digit";
    refuse_unless(is_word(word), field, word, takes)
}

fn check_numbers(
    time_limit_min: Option<u32>,
    cpus: Option<u32>,
    memory_mib: Option<u64>,
) -> Result<(), SlurmRefusal> {
    for (field, given, most, takes) in [
        ("time_limit_min", time_limit_min.map(u64::from), MINUTES_MAX.into(), "1 to 527040"),
        ("cpus", cpus.map(u64::from), 1 << 20, "1 to 1048576"),
        ("memory_mib", memory_mib, 1 << 32, "1 to 4294967296"),
    ] {
        if let Some(given) = given {
            refuse_unless((1..=most).contains(&given), field, &given.to_string(), takes)?;
        }
    }
    Ok(())
}

fn check_gres(gres: &BTreeMap<String, u32>) -> Result<(), SlurmRefusal> {
    let takes = "at most 16 kinds";
    refuse_unless(gres.len() <= GRES_MAX, "gres", &gres.len().to_string(), takes)?;
    for (name, count) in gres {
        let is_name = name.split(':').count() <= 2 && name.split(':').all(is_word);
        refuse_unless(is_name, "gres", name, "a name, or a name and a type, such as `gpu:a100`")?;
        refuse_unless((1..=4096).contains(count), "gres", &count.to_string(), "1 to 4096")?;
    }
    Ok(())
}

fn refuse_unless(
    holds: bool,
    field: &'static str,
    given: &str,
    takes: &'static str,
) -> Result<(), SlurmRefusal> {
    if holds {
        return Ok(());
    }
    Err(SlurmRefusal::Value { field, given: given.chars().take(80).collect(), takes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn site() -> SlurmSpec {
        SlurmSpec {
            request: SlurmRequest {
                partition: Some("cpu".into()),
                account: Some("study".into()),
                time_limit_min: Some(60),
                ..SlurmRequest::default()
            },
            allow: SlurmAllowance {
                partitions: words(&["cpu", "gpu"]),
                time_limit_min: Some(120),
                cpus: Some(8),
                gres: [("gpu".to_owned(), 2)].into(),
                ..SlurmAllowance::default()
            },
            ..SlurmSpec::default()
        }
    }

    #[test]
    fn j_21_a_job_gets_what_the_site_gives_and_what_it_may_wish() {
        let site = site();
        assert_eq!(site.check(), Ok(()));
        assert_eq!(site.grant(&SlurmRequest::default()), Ok(site.request.clone()));
        let wishes = SlurmRequest {
            partition: Some("gpu".into()),
            time_limit_min: Some(120),
            cpus: Some(8),
            gres: [("gpu".to_owned(), 2)].into(),
            ..SlurmRequest::default()
        };
        let granted = site.grant(&wishes).unwrap();
        assert_eq!(granted.account.as_deref(), Some("study"));
        assert_eq!((granted.partition, granted.cpus), (Some("gpu".into()), Some(8)));
    }

    #[test]
    fn j_21_a_wish_that_the_site_does_not_allow_is_refused() {
        let refused = |wishes: SlurmRequest| site().grant(&wishes).unwrap_err();
        let none = SlurmRequest::default;
        let other = refused(SlurmRequest { partition: Some("root".into()), ..none() });
        assert!(matches!(other, SlurmRefusal::NotAmong { field: "partition", .. }), "{other}");
        let account = refused(SlurmRequest { account: Some("study".into()), ..none() });
        assert_eq!(account, SlurmRefusal::NotForJobs("account"));
        let memory = refused(SlurmRequest { memory_mib: Some(1), ..none() });
        assert_eq!(memory, SlurmRefusal::NotForJobs("memory_mib"));
        let cpus = refused(SlurmRequest { cpus: Some(9), ..none() });
        assert!(matches!(cpus, SlurmRefusal::TooMuch { limit: 8, wanted: 9, .. }), "{cpus}");
        let time = refused(SlurmRequest { time_limit_min: Some(121), ..none() });
        assert!(matches!(time, SlurmRefusal::TooMuch { limit: 120, .. }), "{time}");
        let gres = |name: &str, count| {
            refused(SlurmRequest { gres: [(name.to_owned(), count)].into(), ..none() })
        };
        assert!(matches!(gres("gpu", 3), SlurmRefusal::TooMuch { limit: 2, .. }));
        assert!(matches!(gres("gpu:a100", 1), SlurmRefusal::NotAmong { field: "gres", .. }));
    }

    #[test]
    fn row_140_a_value_that_could_be_an_option_a_path_or_a_script_is_refused_everywhere() {
        for hostile in
            ["", "-x", "--uid=0", "a b", "a;b", "$(x)", "../x", "a/b", "a\nb", "a,b", "a=b", "é"]
        {
            for field in 0..3 {
                let mut request = SlurmRequest::default();
                let place = [&mut request.partition, &mut request.account, &mut request.qos];
                *place.into_iter().nth(field).unwrap() = Some(hostile.to_owned());
                assert!(matches!(request.check(), Err(SlurmRefusal::Value { .. })), "{hostile:?}");
                assert!(site().grant(&request).is_err());
                let spec = SlurmSpec { request, ..SlurmSpec::default() };
                assert!(spec.check().is_err());
            }
            for name in [hostile.to_owned(), format!("gpu:{hostile}"), "gpu:a:b".to_owned()] {
                let gres = [(name, 1)].into();
                assert!(SlurmRequest { gres, ..SlurmRequest::default() }.check().is_err());
            }
        }
        let zero = |request: SlurmRequest| request.check().is_err();
        assert!(zero(SlurmRequest { time_limit_min: Some(0), ..SlurmRequest::default() }));
        assert!(zero(SlurmRequest { cpus: Some(0), ..SlurmRequest::default() }));
        assert!(zero(SlurmRequest { memory_mib: Some(0), ..SlurmRequest::default() }));
        let relative = SlurmSpec { commands: Some("bin".into()), ..SlurmSpec::default() };
        assert!(relative.check().is_err());
    }
}
