"""All examples in one registry: `headway worker examples.app:jobs`."""

from examples import (
    airports_import,
    demo_faults,
    hello,
    primes,
    report_pdf,
    thumbnails,
    video_transcode,
)
from headway_worker import Jobs

jobs = Jobs()
jobs.include(hello.jobs)
jobs.include(report_pdf.jobs)
jobs.include(thumbnails.jobs)
jobs.include(airports_import.jobs)
jobs.include(video_transcode.jobs)
jobs.include(primes.jobs)
jobs.include(demo_faults.jobs)
