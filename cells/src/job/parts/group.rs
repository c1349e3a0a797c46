//! The control groups of parts, where this cell has been handed some.

use std::time::Duration;

use cellbus_launch::{ControlGroup, ProgramLimits, group::Groups};
use cellbus_proto::{job::RunId, name::Fqcn};

use super::{LaunchError, Parts};

/// How long what was ended may take to be gone.
const GONE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(10);

impl Parts {
    /// A group for a part that is about to be launched; `None` where this cell can make none.
    pub(super) fn make_group(
        run: RunId,
        name: &Fqcn,
        limits: &ProgramLimits,
    ) -> Result<Option<ControlGroup>, LaunchError> {
        let Ok(groups) = Groups::of_this_process() else { return Ok(None) };
        let made = groups.make(&run.to_string(), name.as_str(), limits);
        made.map(Some).map_err(LaunchError::Group)
    }

    /// Whether a part has a group.
    pub(super) fn is_grouped(run: RunId, name: &Fqcn) -> bool {
        let groups = Groups::of_this_process();
        groups.is_ok_and(|groups| groups.find(&run.to_string(), name.as_str()).is_there())
    }

    /// Ends what is left in the group of a part, and removes the group.
    pub(super) async fn end_group(run: RunId, name: &Fqcn) {
        let Ok(groups) = Groups::of_this_process() else { return };
        let group = groups.find(&run.to_string(), name.as_str());
        if !group.is_there() {
            return;
        }
        let gone = async {
            while group.lives() {
                group.kill();
                tokio::time::sleep(LOOK).await;
            }
        };
        // What cannot be ended keeps its group, which says so.
        let _ = tokio::time::timeout(GONE, gone).await;
        group.remove();
    }
}
