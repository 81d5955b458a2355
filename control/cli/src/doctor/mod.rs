//! `tradewind doctor`.
use crate::failure::Failure;
use crate::options::DoctorOptions;
pub(crate) async fn doctor(_options: &DoctorOptions) -> Result<u8, Failure> {
    Ok(0)
}
