//! x
mod document;
mod recorder;
mod sql;
mod trace;
pub use self::document::*;
pub use self::recorder::*;
pub use self::sql::{Effect, Sql};
pub use self::trace::*;
mod race;
pub use self::race::*;
