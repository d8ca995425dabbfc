//! Instruction counts of the hot paths, under callgrind. Each benchmark states its own ceiling.

mod decode;
mod deliver;
mod encode;
mod frame;
mod listen;
mod prepare;
mod record;
mod session;

use gungraun::main;

use decode::decoding;
use deliver::delivering;
use encode::encoding;
use frame::framing;
use listen::listening;
use prepare::preparing;
use record::records;
use session::sessions;

main!(
    library_benchmark_groups =
        [decoding, encoding, preparing, delivering, framing, listening, sessions, records]
);
